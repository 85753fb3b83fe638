"""What a scrape says, in a form to ask questions of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [each for family in self.families.values() for each in family.samples]

    def __getitem__(self, name: str) -> float:
        """The sum of a metric over all its labels; 0 if there is none."""
        return sum(sample.value for sample in self.samples if sample.name == name)

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The sums of a metric by some of its labels; zeros left out."""
        sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for sample in self.samples:
            if sample.name == name:
                sums[tuple(sample.labels[label] for label in labels)] += sample.value
        return {key: value for key, value in sums.items() if value}

    @property
    def labels(self) -> list[tuple[str, Mapping[str, str]]]:
        """Every sample's name and labels."""
        return [(sample.name, sample.labels) for sample in self.samples]
