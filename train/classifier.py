"""Two small classifiers: a multi-layer perceptron and a convolutional network for images.

Shapes in names: B batch, F features, C channels, H × W pixels, K classes. Logits are [B, 1, K], one position a
row, so that they go with labels [B, 1] into the cross-entropy of language models. Weights are drawn from
N(0, 2 / fan-in), which keeps the variance through rectified layers (He et al., arXiv:1502.01852, section 2.2);
biases start at 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.train.blocks import uninitialised


class _Classifier(nn.Module):
    """What both have in common: checked sizes and input, initial weights."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, **sizes: int) -> None:
        super().__init__()
        if not input_shape or min(input_shape) < 1:
            raise ValueError(f"input_shape: expected sizes of at least 1, got {input_shape}")
        for name, value in ({"num_classes": num_classes} | sizes).items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.input_shape, self.num_classes = tuple(input_shape), num_classes

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Weights from N(0, 2 / fan-in), drawn where the generator is, in the order of ``parameters``; biases 0."""
        for parameter in self.parameters():
            if parameter.ndim < 2:
                parameter.zero_()
            else:
                drawn = torch.empty(parameter.shape, device=generator.device)
                parameter.copy_(drawn.normal_(0.0, math.sqrt(2 / parameter[0].numel()), generator=generator))

    def check_inputs(self, inputs: Tensor) -> None:
        """``ValueError`` for anything but a batch of inputs of the expected shape."""
        if tuple(inputs.shape[1:]) != self.input_shape:
            raise ValueError(
                f"inputs: expected shape [batch, {', '.join(map(str, self.input_shape))}], got {tuple(inputs.shape)}"
            )

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())


class MLPClassifier(_Classifier):
    """``depth`` hidden layers of ``width`` rectified units on the flattened input, and a linear layer to K logits."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: int = 128,
        depth: int = 2,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(input_shape, num_classes, width=width, depth=depth)
        widths = [math.prod(input_shape), *[width] * depth]
        self.hidden = nn.ModuleList(
            uninitialised(nn.Linear, widths[index], widths[index + 1]) for index in range(depth)
        )
        self.head = uninitialised(nn.Linear, width, num_classes)
        self.reset_parameters(generator if generator is not None else torch.Generator().manual_seed(seed))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, 1, K] float32 of inputs [B, …]; ``ValueError`` for another shape."""
        self.check_inputs(inputs)
        x_BF = inputs.flatten(1)
        for layer in self.hidden:
            x_BF = F.relu(layer(x_BF))
        logits_BK: Tensor = self.head(x_BF)
        return logits_BK.float()[:, None]


class ConvNet(_Classifier):
    """Rectified 3 × 3 convolutions of ``width``, 2 and 4 times ``width`` channels, the mean over pixels, K logits.

    The second and third convolution halve height and width (rounded up). There is no normalisation over the
    batch: a row's logits depend on that row alone.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 16,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(input_shape, num_classes, width=width)
        if len(input_shape) != 3:
            raise ValueError(f"input_shape: expected (channels, height, width), got {input_shape}")
        channels = [input_shape[0], width, 2 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            uninitialised(nn.Conv2d, channels[index], channels[index + 1], 3, stride=1 if index == 0 else 2, padding=1)
            for index in range(3)
        )
        self.head = uninitialised(nn.Linear, 4 * width, num_classes)
        self.reset_parameters(generator if generator is not None else torch.Generator().manual_seed(seed))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, 1, K] float32 of images [B, C, H, W]; ``ValueError`` for another shape."""
        self.check_inputs(images_BCHW)
        x_BCHW = images_BCHW
        for layer in self.convolutions:
            x_BCHW = F.relu(layer(x_BCHW))
        logits_BK: Tensor = self.head(x_BCHW.mean(dim=(2, 3)))
        return logits_BK.float()[:, None]
