"""The commands of `medquant`, one file each. Heavy libraries are imported inside the commands only."""
