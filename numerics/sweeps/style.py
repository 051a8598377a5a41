"""Style sheet and script of a sweep's report; both go into the page, which needs nothing else."""

CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2330;--muted:#5d6778;--line:#d8dde6;--soft:#f4f6f9;--bar:#8795ab;
--good:37,99,235;--bad:217,119,6;
--c0:#2f62c4;--c1:#c2540a;--c2:#1c8048;--c3:#ad2a5c;--c4:#7746b4;--c5:#0c747d;--c6:#846800;--c7:#59636f;
--c8:#9a4a26;--c9:#b52e90}
@media (prefers-color-scheme:dark){:root{--bg:#14181f;--fg:#e6eaf1;--muted:#9aa5b6;--line:#333c4a;--soft:#1c222c;
--bar:#66748a;--good:88,145,255;--bad:235,145,40;
--c0:#7ba7ff;--c1:#ff9c55;--c2:#5fd08c;--c3:#ff7da0;--c4:#c09dff;--c5:#52ccd5;--c6:#d8be45;--c7:#aeb8c4;
--c8:#e2a283;--c9:#f28ade}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem clamp(.8rem,3vw,2.2rem) 4rem;max-width:74rem;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0 .3rem}h2{font-size:1.15rem;margin:2.4rem 0 .4rem}
h3{font-size:.95rem;margin:.2rem 0;overflow-wrap:anywhere}
p,ul{margin:.4rem 0}.sub,.note{color:var(--muted)}.note{font-size:.88rem;max-width:64rem}
.summary{padding-left:1.2rem;max-width:64rem}.summary li{margin:.25rem 0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{padding:.22rem .55rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th.t,td.t{text-align:left}thead th{background:var(--soft);vertical-align:bottom;border-bottom:2px solid var(--line)}
.heat td.t,.heat th.t{position:sticky;left:0;background:var(--bg);max-width:17rem;overflow:hidden;
text-overflow:ellipsis}.heat thead th.t{background:var(--soft)}
.heat td{border:1px solid var(--bg);text-align:center;min-width:3rem}
.heat thead th{text-align:center}.heat td,.heat th{padding:.22rem .32rem;font-size:.8rem}.heat td.t{text-align:left}
.heat td.pick{box-shadow:inset 0 0 0 2px var(--fg);font-weight:700}
.swatch{display:inline-block;width:1em;height:1em;border-radius:2px;vertical-align:-.12em;margin-right:.3em}
.swatch.pick{box-shadow:inset 0 0 0 2px var(--fg)}
svg{display:block;width:100%;min-width:46rem;height:auto}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;fill:var(--fg)}
svg .tick{fill:var(--muted)}svg .label{fill:var(--fg)}
svg .name{font-weight:600;paint-order:stroke;stroke:var(--bg);stroke-width:3px;stroke-linejoin:round}
svg .axis{stroke:var(--muted)}svg .grid{stroke:var(--line);stroke-width:.7}
svg .leader{stroke-width:.8;opacity:.7}svg .span{stroke-width:1.6;opacity:.38}
svg .target{stroke:var(--fg);stroke-width:1;stroke-dasharray:2 3}
svg .curve{fill:none;stroke-width:1.7}svg .mark{stroke:var(--bg);stroke-width:.8}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(19rem,1fr));gap:1rem 1.4rem}
.grid2 svg{min-width:0}.grid2 figure{margin:0;break-inside:avoid}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.84rem}
.legend li{display:flex;align-items:center;gap:.3rem}.key svg{min-width:0;width:12px}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid var(--c0)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
input[type=search]{font:inherit;padding:.25rem .5rem;border:1px solid var(--line);border-radius:4px;
background:var(--bg);color:var(--fg);max-width:100%}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;font-size:.88rem;max-width:64rem}
dt{font-weight:600}dd{margin:0}
@media (max-width:40rem){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}.heat td.t,.heat th.t{max-width:9rem}}
@media print{:root{--bg:#fff;--fg:#000;--muted:#444;--line:#bbb;--soft:#eee}
body{max-width:none;padding:0;font-size:10pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.scroll{overflow:visible}table{font-size:7.5pt}svg{min-width:0}tr,svg{break-inside:avoid}h2{break-after:avoid}
input,.screen{display:none}th,td{padding:.1rem .3rem}.heat td{min-width:0}.heat th,#rows th{white-space:normal}
#rows{font-size:6pt}}
@page{size:A4 landscape;margin:11mm}
"""

SCRIPT = """
(function(){
var table=document.getElementById('rows');if(!table)return;
var body=table.tBodies[0],heads=Array.from(table.tHead.rows[0].cells);
function value(row,i){var c=row.cells[i];return c.dataset.v!==undefined?parseFloat(c.dataset.v):c.textContent;}
heads.forEach(function(head,i){head.querySelector('button').addEventListener('click',function(){
var down=head.getAttribute('aria-sort')==='ascending';
heads.forEach(function(other){other.removeAttribute('aria-sort');});
head.setAttribute('aria-sort',down?'descending':'ascending');
Array.from(body.rows).sort(function(a,b){var x=value(a,i),y=value(b,i),nx=x!==x,ny=y!==y,order;
if(nx||ny)return nx-ny;
order=typeof x==='number'?x-y:x.localeCompare(y);return down?-order:order;
}).forEach(function(row){body.appendChild(row);});});});
document.getElementById('filter').addEventListener('input',function(event){
var words=event.target.value.toLowerCase().split(/\\s+/);
Array.from(body.rows).forEach(function(row){var text=row.textContent.toLowerCase();
row.hidden=!words.every(function(word){return text.indexOf(word)>=0;});});});
})();
"""
