"""Features: one definition, compiled to offline SQL and to the content of the online store.

Packages from the ground up: `external` and `windows`; `feast_folder` and `pushes`. The modules of
this folder are below them.
"""
