"""Does a hypothesis hold? → Comparison

`compare_mechanism` looks inside; `swap_parts` is the black-box baseline to it. `stay` asks whether answers come from
chosen cells of the input alone.
"""

from candling.techniques.verify.confined import stay
from candling.techniques.verify.contract import Comparison
from candling.techniques.verify.part_swap import swap_parts
from candling.techniques.verify.same_mechanism import compare_mechanism

__all__ = ["Comparison", "compare_mechanism", "stay", "swap_parts"]
