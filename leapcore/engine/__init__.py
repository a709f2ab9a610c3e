"""Running a distillation: data, DeepSpeed, the loop."""
