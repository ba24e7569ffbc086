"""Which inputs are unusual? → Flags"""

from candling.techniques.flag.called_up import flag_called_up
from candling.techniques.flag.contract import Flags
from candling.techniques.flag.difference import Difference

__all__ = ["Difference", "Flags", "flag_called_up"]
