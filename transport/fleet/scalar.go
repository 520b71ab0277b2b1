package fleet

import (
	"fmt"
	"strconv"
	"strings"
)

// Scalar is an amount in thousandths: Mesos's three decimals as a fixed-point
// integer, so that replicas of different processors agree to the last digit.
type Scalar int64

// Whole makes a Scalar of whole units.
func Whole(n int64) Scalar { return Scalar(n) * 1000 }

// MaxScalar bounds every amount read from outside, so that sums of a whole
// fleet and cross-multiplied shares cannot overflow unseen.
const MaxScalar = Scalar(1) << 50

// String prints the shortest decimal form: "1", "0.5", "2.125".
func (s Scalar) String() string {
	sign := ""
	u := uint64(s)
	if s < 0 {
		sign, u = "-", uint64(-s)
	}
	out := sign + strconv.FormatUint(u/1000, 10)
	if f := u % 1000; f != 0 {
		out += "." + strings.TrimRight(fmt.Sprintf("%03d", f), "0")
	}
	return out
}

// ParseScalar reads a decimal number with at most three decimals. It refuses
// more of them rather than round: 0.0001 of a processor is a mistake.
func ParseScalar(s string) (Scalar, error) {
	whole, frac, dotted := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || whole[0] == '+' || strings.HasPrefix(whole, "-") {
		return 0, fmt.Errorf("%q is not a number of zero or more", s)
	}
	if dotted && (frac == "" || len(frac) > 3 || strings.Trim(frac, "0123456789") != "") {
		return 0, fmt.Errorf("%q: use one to three decimals", s)
	}
	if n > int64(MaxScalar)/1000-1 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	m, _ := strconv.ParseInt((frac + "000")[:3], 10, 64)
	return Scalar(n*1000 + m), nil
}
