"""What one would do today: modules from before and after the paper, beside the library and on its terms.

Nothing in ``famf_lib`` knows this package. ``famf_today.plugin`` adds its modules and rows to the library's tables.
"""
