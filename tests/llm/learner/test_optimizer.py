"""The optimizer and its schedule, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from llm.learner.optimizer import make_optimizer
from llm.learner.options import OptimizerOptions


def test_make_optimizer__two_steps_of_adamw_by_hand() -> None:
    layer = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(layer.weight, 2.0)
    rate, decay, beta1, beta2, epsilon = 0.1, 0.5, 0.8, 0.6, 1e-3
    options = OptimizerOptions(rate, decay, beta1, beta2, epsilon, "linear")
    optimizer, scheduler = make_optimizer(layer, options, 4)
    value, mean, square = 2.0, 0.0, 0.0
    for step, gradient in enumerate((3.0, -1.0), 1):
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
        scheduler.step()
        # Loshchilov and Hutter (2019), Algorithm 2, with a rate that falls to 0 in four steps.
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        now = rate * (1 - (step - 1) / 4)
        root = (square / (1 - beta2**step)) ** 0.5
        value = value * (1 - now * decay) - now * mean / (1 - beta1**step) / (root + epsilon)
        assert_close(float(layer.weight.detach()), value)


def test_make_optimizer__schedules_that_need_a_metric_are_refused() -> None:
    for name, message in (("none such", "none such"), ("reduce_lr_on_plateau", "has none")):
        with pytest.raises(ValueError, match=rf"lr_scheduler_type: .*{message}.*; constant is"):
            make_optimizer(torch.nn.Linear(1, 1), OptimizerOptions(lr_scheduler_type=name), 4)
