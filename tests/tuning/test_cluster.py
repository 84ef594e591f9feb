"""What trials on one machine share."""

import dataclasses
import pickle

import numpy as np

from tests.mmnet.tiny import feature_dataset
from tuning.cluster import shareable


def test_memory_mapped_arrays_are_handed_over_outside_the_pickle(tmp_path):
    """Ray puts such buffers into shared memory; what stands in the pickle itself, every process copies."""
    dataset = feature_dataset()
    np.save(tmp_path / "maps.npy", np.zeros((len(dataset.table), 8, 5, 5), dtype=np.float16))  # a size that nothing else has
    mapped = dataclasses.replace(dataset, features=np.load(tmp_path / "maps.npy", mmap_mode="r"))

    def outside(dataset):
        buffers: list[pickle.PickleBuffer] = []
        pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
        return [buffer.raw().nbytes for buffer in buffers]

    assert mapped.features.nbytes in outside(shareable(mapped)) and mapped.features.nbytes not in outside(mapped)
    assert np.shares_memory(shareable(mapped).features, mapped.features)
