"""From pictures and videos to features (the first module of Fig. 1) with pre-trained models that the user chooses.

Optional (``pip install .[extract]``): ``famf_lib`` does not need it. Each stage is an interface with a default
implementation. Models are the user's files, given by path or by an entry of the registry; nothing is downloaded
unless asked for, and no data leave the machine.
"""

import famf_lib  # noqa: F401  (it switches off the telemetry of other packages)
