/** A bar of a chart. */
export interface Bar {
  readonly label: string
  readonly value: number
  /** Stands behind the bar. */
  readonly text: string
  readonly kind: 'ours' | 'sound' | 'loses'
}

// Each is readable on white and on black.
const colors = { ours: '#2f81f7', sound: '#8b949e', loses: '#e5534b', text: '#737c86' } as const

const [width, labelWidth, textWidth, barHeight, gap, top] = [800, 250, 190, 18, 8, 34]

/** Horizontal bars as an SVG image, which takes the colour of the page behind it. */
export function barChart(title: string, bars: readonly Bar[]): string {
  const greatest = Math.max(...bars.map(({ value }) => value))
  const height = top + bars.length * (barHeight + gap)
  const rows = bars.map(({ label, value, text, kind }, index) => {
    const y = top + index * (barHeight + gap)
    const length = Math.max(1, Math.round((value / greatest) * (width - labelWidth - textWidth)))
    const weight = kind === 'ours' ? ' font-weight="bold"' : ''
    return [
      `  <text x="${labelWidth - 10}" y="${y + 13}" text-anchor="end"${weight}>${escaped(label)}</text>`,
      `  <rect x="${labelWidth}" y="${y}" width="${length}" height="${barHeight}" rx="2" fill="${colors[kind]}"/>`,
      `  <text x="${labelWidth + length + 8}" y="${y + 13}"${weight}>${escaped(text)}</text>`,
    ].join('\n')
  })
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}" font-family="system-ui, sans-serif" font-size="13" fill="${colors.text}">`,
    `  <title>${escaped(title)}</title>`,
    `  <text x="10" y="18" font-size="15" font-weight="bold">${escaped(title)}</text>`,
    ...rows,
    '</svg>',
    '',
  ].join('\n')
}

function escaped(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;')
}
