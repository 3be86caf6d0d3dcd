"""Names of structures of the chest and of large vessels in four languages, with SNOMED CT codes."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "esophagus": (
        "oesophagus; gullet; Speiseröhre; Ösophagus; Oesophagus; œsophage; oesophage; esófago; 32849002"
    ),
    "trachea": "windpipe; Luftröhre; trachée; tráquea; 44567001",
    "lung": "lungs; pulmo; Lunge; Lungen; Lungenflügel; poumon; poumons; pulmón; pulmones; 39607008",
    "left lung": "44029006",
    "right lung": "3341006",
    "lung upper lobe": (
        "upper lobe of the lung; Lung_UL; Lungenoberlappen; Oberlappen; Oberlappen der Lunge; lobe "
        "supérieur du poumon; lóbulo superior del pulmón; 45653009"
    ),
    "lung lower lobe": (
        "lower lobe of the lung; Lung_LL; Lungenunterlappen; Unterlappen; Unterlappen der Lunge; lobe "
        "inférieur du poumon; lóbulo inferior del pulmón; 90572001"
    ),
    "lung middle lobe": (
        "middle lobe of the lung; Lung_ML; Lungenmittellappen; Mittellappen; Mittellappen der Lunge; "
        "lobe moyen du poumon; lóbulo medio del pulmón; 40020002"
    ),
    "right lung middle lobe": "72481006",
    "lung tumor": (
        "lung cancer; lung tumour; pulmonary tumor; Lungentumor; Lungenkrebs; Lungenkarzinom; tumeur du "
        "poumon; tumeur pulmonaire; cancer du poumon; tumor pulmonar; tumor de pulmón; cáncer de pulmón"
    ),
    "heart": "cor; Herz; cœur; coeur; corazón; 80891009",
    "heart myocardium": "myocardium; cardiac muscle; Myokard; Herzmuskel; myocarde; miocardio; 74281007",
    "heart atrium": (
        "cardiac atrium; Herzvorhof; oreillette; oreillette du cœur; aurícula del corazón; 59652004"
    ),
    "left heart atrium": "left atrium; atrium sinistrum; 82471001",
    "right heart atrium": "right atrium; atrium dextrum; 73829009",
    "heart ventricle": (
        "cardiac ventricle; ventricle of the heart; Herzkammer; ventricule cardiaque; ventricule du "
        "cœur; ventrículo cardíaco; ventrículo del corazón; 21814001"
    ),
    "left heart ventricle": "87878005",
    "right heart ventricle": "53085002",
    "atrial appendage": "auricular appendage; Herzohr; Vorhofohr; orejuela auricular; 68786006",
    "aorta": "A_Aorta; Hauptschlagader; Aorta; aorte; 15825003",
    "celiac trunk": "coeliac trunk; Truncus coeliacus; tronc cœliaque; tronco celíaco",
    "superior vena cava": (
        "SVC; V_Venacava_S; vena cava superior; obere Hohlvene; veine cave supérieure; vena cava "
        "superior; 48345005"
    ),
    "inferior vena cava": (
        "IVC; postcava; V_Venacava_I; vena cava inferior; untere Hohlvene; veine cave inférieure; 64131007"
    ),
    "pulmonary artery": (
        "A_Pulmonary; arteria pulmonalis; Lungenarterie; Pulmonalarterie; artère pulmonaire; arteria "
        "pulmonar; 81040000"
    ),
    "pulmonary vein": (
        "pulmonary veins; V_Pulmonary; Lungenvene; Lungenvenen; Pulmonalvene; veine pulmonaire; vena "
        "pulmonar; 122972007"
    ),
    "brachiocephalic trunk": (
        "brachiocephalic artery; A_Brachiocephls; truncus brachiocephalicus; tronc brachio céphalique; "
        "tronco braquiocefálico; 12691009"
    ),
    "brachiocephalic vein": (
        "V_Brachioceph; vena brachiocephalica; veine brachio céphalique; vena braquiocefálica; 8887007"
    ),
    "subclavian artery": (
        "A_Subclavian; arteria subclavia; Schlüsselbeinarterie; Unterschlüsselbeinarterie; artère sous "
        "clavière; 29700009"
    ),
    "costal cartilages": "costal cartilage; Rippenknorpel; cartilages costaux; cartílagos costales; 50016007",
}
"""Per structure: aliases separated by semicolons; numbers are SNOMED CT codes. Names may contain a side."""
