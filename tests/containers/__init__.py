"""The images, built by `make images`, as containers of a Docker daemon."""
