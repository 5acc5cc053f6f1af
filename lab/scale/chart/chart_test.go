package chart

import (
	"encoding/xml"
	"errors"
	"io"
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

func TestNumber(t *testing.T) {
	for want, v := range map[string]float64{"0": 0, "0.5": 0.5, "999": 999, "1,000": 1000, "12,346": 12345.6,
		"1,000,000": 1e6, "43.3": 43.3} {
		require.Equal(t, want, number(v))
	}
}
