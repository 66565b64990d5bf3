"""Patches, simulated degradations and the training loop; needs torch, numpy, monai and safetensors alone."""
