"""Exams: techniques on organisms whose truth is known to the grader alone."""
