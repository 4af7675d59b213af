"""The commands of ``famf``, one file per group. Nothing heavy is imported before a command runs."""
