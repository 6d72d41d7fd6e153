"""Data sets of segmented scans in the folders that their authors publish: cases with a scan and a reference."""

from medquant.datasets.case import Case, Dataset
from medquant.datasets.catalogue import DATASETS, open_dataset

__all__ = ["DATASETS", "Case", "Dataset", "open_dataset"]
