"""From notebooks to pages: strict parameters, execution, the build, what pages share, and the command ``famf``."""
