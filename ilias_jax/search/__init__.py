"""Search: exact on the device, or a ScaNN partitioned index, behind the same method."""
