"""Pure logic: text to policy, policy to table set. Time is an argument; never does I/O."""
