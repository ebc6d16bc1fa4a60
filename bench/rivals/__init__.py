"One file for each library of the scoreboard: each job as that library's own documentation does it."
