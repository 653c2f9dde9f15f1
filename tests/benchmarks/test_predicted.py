"""The predicted speedups on the page are those that the command prints."""

from pathlib import Path

from benchmarks.predicted import predict

PAGE = Path(__file__).parents[2] / "docs/reference/gpu.md"


def test_the_page_holds_the_predictions():
    page = PAGE.read_text()
    for row in predict():
        plain = f"{row['trl_generation']:.1f} + {row['trl_update']:.1f}"
        ours = f"{row['generation']:.1f} + {row['update']:.1f}"
        assert f"| {row['completion']} | {plain} | {ours} | {row['ratio']:.2f} |" in page


def test_sharing_gains_less_with_longer_completions():
    for engine in ("HF generation", "vLLM"):
        ratios = [float(row["ratio"]) for row in predict((64, 256, 1024, 4096)) if row["engine"] == engine]
        assert ratios == sorted(ratios, reverse=True)
        assert ratios[-1] > 1
