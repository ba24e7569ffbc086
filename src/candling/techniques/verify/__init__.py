"""Does a hypothesis hold? → Comparison

`compare_mechanism` looks inside; `swap_parts` is the black-box baseline to it. `stay` asks whether answers come from
chosen cells of the input alone. `agree` sets a program beside a network's answers; `find_place` and
`examine` look for the units that carry its answer.
"""

from candling.techniques.verify.agreement import agree
from candling.techniques.verify.carried import examine
from candling.techniques.verify.confined import stay
from candling.techniques.verify.contract import Comparison
from candling.techniques.verify.part_swap import swap_parts
from candling.techniques.verify.placing import find_place
from candling.techniques.verify.same_mechanism import compare_mechanism

__all__ = ["Comparison", "agree", "compare_mechanism", "examine", "find_place", "stay", "swap_parts"]
