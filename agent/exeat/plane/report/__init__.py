"""What came of the policies in a span of time, as numbers, a page and words. It reads, and changes nothing."""
