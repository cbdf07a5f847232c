-- ARGV 5 user, 6 connection, 7 session. Result: 1 if this made the user online, else 0.
return answer(register(ARGV[5], ARGV[6], ARGV[7]))
