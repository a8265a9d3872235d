"""The paper's experiments, one file per figure: `python -m training.paper`."""
