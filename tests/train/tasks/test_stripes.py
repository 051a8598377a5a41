import pytest
import torch

from narrowgauge.train.tasks import stripes
from narrowgauge.train.tasks.stripes import DIRECTIONS


def test_without_noise_an_image_does_not_change_along_its_stripes() -> None:
    examples = stripes(16, seed=0, noise=0.0)
    assert examples.labels[:5, 0].tolist() == [0, 1, 2, 3, 0]
    for image, label in zip(examples.inputs[:, 0], examples.labels[:, 0].tolist(), strict=True):
        a, b = DIRECTIONS[label]
        moved = image.roll((a, -b), dims=(0, 1))  # one step along the stripes: x - b, y + a
        assert torch.allclose(moved[1:-1, 1:-1], image[1:-1, 1:-1], atol=1e-5)
        across = image.roll((0, 1) if a else (1, 0), dims=(0, 1))
        assert (across - image)[1:-1, 1:-1].abs().max() > 0.5


def test_noise_has_its_size() -> None:
    clean, noisy = (stripes(200, seed=0, noise=noise).inputs for noise in (0.0, 0.5))
    assert (noisy - clean).std().item() == pytest.approx(0.5, abs=0.02)


def test_images_below_the_size_of_a_filter_are_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        stripes(1, seed=0, size=2)
