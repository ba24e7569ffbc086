"""Output confidence: the black-box baseline that sees answers only.

Question: of which inputs is the network unsure?
Source: Hendrycks and Gimpel, 1610.02136: one minus the highest probability.
Inputs: logits [n, K], of all networks' outputs in place of states. Scores from 0 to 1 - 1/K.
Cost: one forward pass an input.
Known failures: a trigger makes a network sure; so does a shortcut.
"""

from __future__ import annotations

from torch import Tensor

from candling.techniques.flag.contract import Scoring


def confidence(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """One minus the probability of the predicted class."""
    return lambda logits: 1 - logits.softmax(-1).amax(-1)
