"""Servers for SavedModels that `elu_zoo.export_saved_model` wrote."""
