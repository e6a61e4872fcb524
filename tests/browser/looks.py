"""What a page looks like, computed in the page: the contrast of every text, the names of controls, what sticks out."""

_CONTRAST = """panel => {
    const channels = text => {
        const numbers = text.match(/[\\d.]+/g).map(Number);
        if (text.startsWith('color(srgb')) return [...numbers.slice(0, 3).map(n => 255 * n), numbers[3] ?? 1];
        return [...numbers.slice(0, 3), numbers[3] ?? 1];
    };
    const over = (front, back) => front.slice(0, 3).map((c, i) => c * front[3] + back[i] * (1 - front[3]));
    const behind = element => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(channels(getComputedStyle(e).backgroundColor));
        return layers.reduceRight((back, front) => over(front, back), [255, 255, 255]);
    };
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    const look = (element, text, style) => {
        if (!text.trim() || !element.getClientRects().length || element.closest('[disabled], :disabled')) return;
        let colour = channels(style.color);
        for (let e = element; e; e = e.parentElement) colour[3] *= Number(getComputedStyle(e).opacity);
        const back = behind(element);
        const [dark, light] = [luminance(over(colour, back)), luminance(back)].sort((a, b) => a - b);
        found.push([(light + 0.05) / (dark + 0.05), text.trim().slice(0, 60), parseFloat(style.fontSize)]);
    };
    for (const walker = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT); walker.nextNode();) {
        const element = walker.currentNode.parentElement;
        if (!element.closest('style, option')) look(element, walker.currentNode.data, getComputedStyle(element));
    }
    for (const field of panel.querySelectorAll('input, select, textarea')) {
        look(field, field.tagName === 'SELECT' ? field.selectedOptions[0]?.text ?? '' : field.value ?? '', getComputedStyle(field));
        if (field.placeholder) look(field, field.placeholder, getComputedStyle(field, '::placeholder'));
    }
    return found;
}"""

_STICKING_OUT = """panel => {
    const right = panel.getBoundingClientRect().right + 1;
    const cut = [...panel.querySelectorAll('label, button, .widget-label, .widget-html-content, select, img, canvas')].filter(
        e => e.getClientRects().length && (e.getBoundingClientRect().right > right ||
            (!['SELECT', 'IMG', 'CANVAS'].includes(e.tagName) && e.scrollWidth > e.clientWidth + 1)));
    return cut.map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 50)}`);
}"""

_UNNAMED = """panel => [...panel.querySelectorAll('input, select, button')].filter(e => e.getClientRects().length &&
    !(e.labels && [...e.labels].some(l => l.textContent.trim())) && !e.title && !e.ariaLabel && !e.textContent.trim()
).map(e => e.outerHTML)"""


def texts(panel):
    """``(contrast, text, size in px)`` of every text that is seen in ``panel``; what is disabled is left out, as in WCAG 1.4.3."""
    return [tuple(found) for found in panel.evaluate(_CONTRAST)]


def cut_off(panel):
    """Labels, buttons and pictures that do not fit."""
    return panel.evaluate(_STICKING_OUT)


def unnamed(panel):
    """Controls without a name. The handles of sliders are none of these: ipywidgets gives them no name."""
    return panel.evaluate(_UNNAMED)
