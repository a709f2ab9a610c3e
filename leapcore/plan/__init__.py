"""What a run will cost, before its first step: counted on the meta device, or measured in a few steps."""
