"""Whether this machine can run leapcore, and what to mend: ``leapcore doctor``."""
