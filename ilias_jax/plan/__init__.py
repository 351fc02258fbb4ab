"""What a run will take: bytes, disk, memory and hours, from constants measured on a machine."""
