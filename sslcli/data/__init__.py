"""Data sets by name, image folders and user factories, as splits of in-memory or file-backed samples.

A sample's randomness is a function of (seed, epoch, index) alone, so that workers, the composition of
batches, a resumed run and the number of processes do not change what the network sees.
"""

from sslcli.data.catalogue import load_data
from sslcli.data.randomness import epoch_order
from sslcli.data.source import DataSource, Normalization, Split
from sslcli.data.stream import stream

__all__ = ["DataSource", "Normalization", "Split", "epoch_order", "load_data", "stream"]
