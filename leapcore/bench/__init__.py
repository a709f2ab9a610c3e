"""Benchmarks: a matrix of teachers, students, methods and seeds, run cell by cell."""
