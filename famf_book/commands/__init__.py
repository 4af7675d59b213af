"""The groups of commands of ``famf``, a file each. Nothing heavy is imported before a command runs."""
