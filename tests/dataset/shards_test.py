"""Records serialized by hand: the bytes of TFDS's own serializer in protobuf's deterministic form."""

import io

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from ilias_jax.dataset import shards
from ilias_jax.dataset.layout import ImageRecord, TextRecord
from ilias_jax.dataset.shards import image_example, text_example

NO_BOXES: tuple = ()
BOXES = ((1.0, 2.5, 3.0, 4.0), (0.1, 1e9, -3.0, 7.0))


def by_tfds(features, example):
    message = tf_example_pb2.Example.FromString(features.serialize_example(example))
    return message.SerializeToString(deterministic=True)


# Lengths at which a length takes another byte: alone, and with the headers around it.
@pytest.mark.parametrize("length", [0, 1, *range(95, 130), *range(16_340, 16_390, 7), 3_000_000])
@pytest.mark.parametrize("boxes", [NO_BOXES, BOXES, BOXES[:1] * 40])
def test_images_have_the_bytes_of_tfds(length, boxes):
    data = bytes([7]) * length
    for image_id in ("a/pos/P0.jpg", "größe.tar/" + "x" * 120):
        example = {
            "id": image_id,
            "image": io.BytesIO(data),
            "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        }
        assert image_example(ImageRecord(image_id, data, boxes)) == by_tfds(
            shards.image_features(), example
        )


@pytest.mark.parametrize("text", ["", "a mug", "Café, 3 € 猫\n", "x" * 200, "y" * 20_000])
def test_texts_have_the_bytes_of_tfds(text):
    example = {"id": "mug_012/query/T012.txt", "text": text}
    assert text_example(TextRecord(example["id"], text)) == by_tfds(shards.text_features(), example)
