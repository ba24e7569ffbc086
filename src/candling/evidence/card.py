"""What a technique scored where the truth is known: the card that it carries."""

from __future__ import annotations

from candling.evidence.measurement import Rate, Record


class Figure(Record):
    """One measure of one exam: a mean over organisms, with its 95 % interval (Student's t), or a proportion."""

    measure: str
    value: float
    low: float
    high: float
    n: int
    """Organisms behind it."""

    @classmethod
    def of(cls, measure: str, rate: Rate) -> Figure:
        return cls(measure=measure, value=rate.value, low=rate.low, high=rate.high, n=rate.n)


class Card(Record):
    """A technique on one exam."""

    technique: str
    question: str
    """The folder of techniques that it belongs to."""
    exam: str
    figures: list[Figure]
    """The measure that techniques are ranked by comes first."""
    seconds: float
    """Processor time of one organism, median; this machine's."""

    @property
    def score(self) -> Figure:
        return self.figures[0]


class Grades(Record):
    """All cards of one sitting."""

    candling: str
    seed: int
    subjects: int
    cards: list[Card]

    def best(self, question: str) -> Card:
        """Of those that this question has, the highest score. Raises KeyError where there is none."""
        cards = [card for card in self.cards if card.question == question]
        if not cards:
            raise KeyError(question)
        return max(cards, key=lambda card: card.score.value)
