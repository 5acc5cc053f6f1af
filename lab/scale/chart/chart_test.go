package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func example() Chart {
	return Chart{Title: "a < b", Source: "measured",
		X: Axis{Label: "nodes", Ticks: []float64{0, 32, 64}},
		Y: Axis{Label: "bytes", Log: true, Ticks: []float64{1, 1000, 1_000_000}},
		Lines: []Line{
			{Name: "one\nof two", Points: []Point{{0, 1}, {32, 1000}, {64, 1_000_000}}},
			{Name: "two", Dashed: true, Bare: true, Points: []Point{{0, 10}, {64, 10}}},
		}}
}

func TestPictureIsXML(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(example().SVG()))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
	}
}

func TestPointsAreWhereTheTicksAre(t *testing.T) {
	c := example()
	require.InDelta(t, left, c.x(0), 0.01)
	require.InDelta(t, width-right, c.x(64), 0.01)
	require.InDelta(t, height-bottom, c.y(1), 0.01)
	require.InDelta(t, (height-bottom+top)/2, c.y(1000), 0.01, "half the way on a logarithmic axis")
	require.InDelta(t, top, c.y(1_000_000), 0.01)
	s := c.SVG()
	require.Equal(t, 3, strings.Count(s, "<circle"), "a computed line has no marks")
	require.Contains(t, s, "a &lt; b")
	require.Contains(t, s, "64: 1,000,000", "the numbers are in the description")
}

func TestOutside(t *testing.T) {
	c := example()
	require.Empty(t, c.Outside())
	c.Lines[1].Points = []Point{{65, 10}, {1, 0}, {2, 10}}
	require.Equal(t, []Point{{65, 10}, {1, 0}}, c.Outside(), "0 has no place on a logarithmic axis")
}

func TestPairedLinesShareAColour(t *testing.T) {
	c := example()
	c.Lines[1].Paired = true
	c.Lines = append(c.Lines, Line{Name: "three", Bare: true, Points: []Point{{0, 1}}})
	s := c.SVG()
	require.Equal(t, 4, strings.Count(s, `stroke="`+colours[0]), "two lines and their legends")
	require.Equal(t, 2, strings.Count(s, `stroke="`+colours[1]))
}

func TestLegendFits(t *testing.T) {
	c := example()
	for range 10 {
		c.Lines = append(c.Lines, Line{Name: "more\nlines", Bare: true, Points: []Point{{0, 1}}})
	}
	for _, m := range regexp.MustCompile(` y="([0-9.]+)"`).FindAllStringSubmatch(c.SVG(), -1) {
		y, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		require.LessOrEqual(t, y, float64(height-5))
	}
}

func TestNumber(t *testing.T) {
	for want, v := range map[string]float64{"0": 0, "0.5": 0.5, "999": 999, "1,000": 1000, "12,346": 12345.6,
		"1,000,000": 1e6, "43.3": 43.3} {
		require.Equal(t, want, number(v))
	}
}
