module example.org/bad

go 1.26

require (
	example.org/m1 v0.0.0
	example.org/m2 v0.0.0
	example.org/m3 v0.0.0
	example.org/m4 v0.0.0
	example.org/m5 v0.0.0
	example.org/m6 v0.0.0
	example.org/m7 v0.0.0
	example.org/m8 v0.0.0
	example.org/m9 v0.0.0
	example.org/m10 v0.0.0
	example.org/m11 v0.0.0
	example.org/m12 v0.0.0
	example.org/m13 v0.0.0
	example.org/m14 v0.0.0
	example.org/m15 v0.0.0
	example.org/m16 v0.0.0
	example.org/m17 v0.0.0
	example.org/m18 v0.0.0
	example.org/m19 v0.0.0
	example.org/m20 v0.0.0
	example.org/m21 v0.0.0
	example.org/indirect v0.0.0 // indirect
	golang.org/x/sync v0.0.0
)
