"""Which days a model learns from and is tested on, by its model.yaml."""
