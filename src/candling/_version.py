"""The version, in the one place that needs nothing else imported."""

VERSION = "0.1.0"
