"""From notebooks to pages: strict parameters, execution, the build, what pages share, and the command ``famf``."""

import famf_lib  # noqa: F401  (it switches off what other packages report over the network)
