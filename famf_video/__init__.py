"""From pictures and videos to features, the first module of Fig. 1, by pre-trained models of the user's own choice.

Optional (``pip install .[extract]``): nothing else in the library needs it. Every stage is an interface with one real
default. Models are files that the user has, named by their path or by an entry of the registry; nothing is downloaded
without being told to, and nothing leaves the machine.
"""

import famf_lib  # noqa: F401  (it switches off what other packages report over the network)
