"""Servers for models that `elu_zoo.export_saved_model` wrote."""
