package story

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// differences shows the blocks that printed something else.
func (s *Story) differences(outputs [][]string) string {
	var b strings.Builder
	for i, bl := range s.blocks {
		if slices.Equal(bl.want, outputs[i]) {
			continue
		}
		fmt.Fprintf(&b, "%s:%d: after\n\t%s\nexpected\n", s.Path, bl.commands[0].Line, strings.Join(bl.source, "\n\t"))
		for _, line := range bl.want {
			fmt.Fprintf(&b, "\t%s%s\n", mark(outputs[i], line), line)
		}
		b.WriteString("and this happened\n")
		for _, line := range outputs[i] {
			fmt.Fprintf(&b, "\t%s%s\n", mark(bl.want, line), line)
		}
	}
	return b.String()
}

// mark is set before a line that the other side lacks.
func mark(other []string, line string) string {
	if slices.Contains(other, line) {
		return "  "
	}
	return "! "
}

// merge returns what was printed, but each line that fits an expected one as it is
// expected: "..." there stands for any text within a line. The pairs are those of
// the longest common sequence.
func merge(want, got []string) []string {
	best := make([][]int, len(got)+1) // of got[i:] and want[k:]
	for i := range best {
		best[i] = make([]int, len(want)+1)
	}
	pair := make([][]bool, len(got))
	for i := len(got) - 1; i >= 0; i-- {
		pair[i] = make([]bool, len(want))
		for k := len(want) - 1; k >= 0; k-- {
			best[i][k] = max(best[i+1][k], best[i][k+1])
			if pair[i][k] = fits(want[k], got[i]); pair[i][k] {
				best[i][k] = max(best[i][k], best[i+1][k+1]+1)
			}
		}
	}
	merged := slices.Clone(got)
	for i, k := 0, 0; i < len(got) && k < len(want); {
		switch {
		case pair[i][k] && best[i][k] == best[i+1][k+1]+1:
			merged[i] = want[k]
			i, k = i+1, k+1
		case best[i][k] == best[i+1][k]:
			i++
		default:
			k++
		}
	}
	return merged
}

// fits compares a line with what is expected.
func fits(want, got string) bool {
	if !strings.Contains(want, "...") {
		return want == got
	}
	expr := strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, ".*")
	return regexp.MustCompile("^" + expr + "$").MatchString(got)
}
