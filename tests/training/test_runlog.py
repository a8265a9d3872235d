"""The learning curve of a run."""

import re

from training.engine import runlog

SETTINGS = {
    "model": "ELUNet11",
    "dataset": "cifar100",
    "holdout": 0,
    "epochs": 4,
    "image_sizes": {"0": 16, "3": 24},
}


def test_the_curve_marks_sizes_and_leaves_evaluations_apart(tmp_path):
    log = runlog.RunLog(tmp_path / "log.csv")
    for epoch in range(1, 5):
        row = {"train_loss": 5 - epoch, "train_error": 0.2 * epoch}
        if epoch % 2 == 0:
            row |= {"eval_loss": 4 - epoch / 2, "eval_error": 0.1 * epoch}
        log.add(step=10 * epoch, epoch=float(epoch), learning_rate=0.1, **row)
    path = tmp_path / "curve.svg"
    runlog.plot(runlog.read(log.path), path, SETTINGS, side=32)
    svg = path.read_text("utf-8")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert "ELUNet11 on cifar100, test images of 32×32" in texts
    assert {"image side:", "16", "24"} <= set(texts)
    # Dots have a fill; a line from one evaluation to the next would have none.
    assert "stroke: #e69f00" in svg and "fill: none; stroke: #e69f00" not in svg
    assert "fill: none; stroke: #0072b2" in svg
