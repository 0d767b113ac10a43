"""The platform's own page, for a browser on this machine.

Packages from the ground up: `pictures`; `queries`; `people`; `review`. The modules of this folder
are above them.
"""
