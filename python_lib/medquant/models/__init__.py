"""One adapter per family of networks: scan -> tensors -> network -> labels on the scan's own grid."""
