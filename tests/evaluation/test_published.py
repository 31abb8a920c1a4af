"""Published figures to compare with."""

from reprogpt.evaluation.published import nearest


def test_references_are_the_nearest_in_size():
    assert nearest(124_439_808)["gpt2"].name == "GPT-2 124M"
    assert nearest(1_500_000_000)["gpt2"].scores["acc_norm"] == 0.4893
    assert nearest(360_000_000)["gpt2"].name == "GPT-2 355M"
    assert nearest(354_000_000)["gpt3"].scores["acc_norm"] == 0.436
    assert nearest(1000)["gpt3"].name == "GPT-3 125M"
