"""What a person looks at after a run: tables of numbers and grids of pictures."""
