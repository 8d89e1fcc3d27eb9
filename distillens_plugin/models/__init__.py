"""Teachers, students and their tokenizers: loading, adapting and sampling."""
