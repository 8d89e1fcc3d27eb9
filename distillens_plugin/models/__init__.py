"""Teachers, students and their tokenizers: loaded, adapted, sampled from."""
